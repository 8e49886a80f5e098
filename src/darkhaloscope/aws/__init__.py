"""The cloud: one door to AWS, the store's filesystem on S3, and how long the credentials last."""
