"""Other people's videos: files, folders of frames and arrays as RGB frames, looking as a player shows them.

In it are the reader (`read`), what it is made of (`containers`, `structure`, `shown`, `images`, `arrays`), and
operations on frames (`frames`). Whoever made a file is not trusted: formats are listed, sizes are compared with limits
before anything is decoded, and memory follows the frames that are used. Not in it: writing, stage files and contact
sheets (`show1_jax.video`), and captions and clips for training (`show1_jax.data`).
"""
