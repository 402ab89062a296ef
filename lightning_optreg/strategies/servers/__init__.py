"""Workers that come and go, and servers that have the weights, as processes of Ray."""
