"""From folders, tables and tars to shards with an index, and from shards to vocabularies."""
