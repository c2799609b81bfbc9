"""Object storage such as S3: its objects, a cache of them on a machine, and one writer at a time."""
