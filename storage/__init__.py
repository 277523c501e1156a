"""What must last: bytes, index and jobs. Opens no sockets and knows no models."""
