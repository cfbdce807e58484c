"""Where files are kept: a bucket that speaks S3, or a folder. Families use `store.ObjectStore`, opened by `opening`."""
