"""The OHIF viewer as its makers built it, on a web server of its own."""
