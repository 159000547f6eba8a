"""The store of records, and summaries over seeds."""
