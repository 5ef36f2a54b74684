"""The page: `python -m show1_jax.web` serves the cascade in a browser, with Gradio (extra `web`).

`requests` makes requests of forms, `worker` samples them one after the other, `gallery` lists finished videos; these
know nothing of Gradio. `page` is the page, `server` the server around it. Sampling itself is in `show1_jax.sampling`.
"""
