"""Stage 2: the delivery queue (journal on disk, or memory)."""
