"""What `--help` prints: one page, a part's arguments, or everything; and the names that options take."""
