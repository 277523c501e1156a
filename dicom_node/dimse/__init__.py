"""The DICOM network: a lean message layer of our own on blocking sockets.

::

    reception   sockets without an association: one selector, deadlines, caps
    server      admits, runs one thread per association, stops cleanly
    association one accepted association: its message loop, and what services see of it
    services/   echo, store: one file a service
    scu         the requesting side; outgoing cuts its data sets into PDUs
    connection  PDU framing over one socket; message and pdu are its bytes and know no socket
    contexts    what is accepted; admission says from whom

An instance goes from the receive buffer to the archive's writer as views of that buffer. pynetdicom supplies the tables
of SOP classes and transfer syntaxes, and is the independent peer in the tests.
"""
