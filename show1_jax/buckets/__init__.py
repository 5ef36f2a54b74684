"""Paths in buckets, `gs://` and `s3://`, through TensorStore's clients of Google Cloud Storage and S3.

`path` has the paths, `store` the objects of a bucket, `lease` the lock of a folder in a bucket. What is written there,
and in which order, is the work of the packages above.
"""
