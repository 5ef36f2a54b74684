"""Paths in buckets, `gs://` and `s3://`, through TensorStore's clients of Google Cloud Storage and S3.

`path` has the paths, `store` the objects of a bucket, `lease` the lock of a folder, `upload` folders that are uploaded
as a whole, `orbax_paths` paths for Orbax. The packages above decide what is written there, and in which order.
"""
