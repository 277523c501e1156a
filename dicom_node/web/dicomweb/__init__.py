"""DICOMweb (PS3.18) under /dicom-web: search (QIDO-RS) and retrieve (WADO-RS) from the index and the archive's bytes.

routes.py        every resource's address
accept.py        which representation a client is given          errors.py     what it is refused, in one line
resources.py     what an address names                           responses.py  bodies that are streamed
qido.py          search > rows > JSON                            metadata.py   header JSON as it is kept
wado.py          instances as they are stored                    frames.py bulkdata.py rendered.py   parts of one instance
"""
