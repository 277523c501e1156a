"""The conformance statement (PS3.2), generated from what a node of this configuration really registers.

statement.py   what it says: SOP classes and roles, transfer syntaxes, attributes, statuses, addresses of DICOMweb
document.py    sections and tables as Markdown and as a page
sources.py     the registered services and routes, of a running node or of one made for the purpose
"""
