"""Engines that run a job over shards. They move shard keys and commit records, never pixels."""
