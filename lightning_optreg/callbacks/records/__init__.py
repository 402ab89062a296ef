"""What is drawn, measured and written down."""
