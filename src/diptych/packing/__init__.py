"""From folders, tables and tars to shards with an index, and the check of shards."""
