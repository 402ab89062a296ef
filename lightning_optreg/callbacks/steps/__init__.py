"""When steps are made, and with which optimizer."""
