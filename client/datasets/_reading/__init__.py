"""Tables and pictures as people have them, read as a stream, each fault said with its file and line.

findings.py collects what was wrong, files.py opens what lies under one root, blocks.py gives columns of any format,
quoting.py counts the lines of rows, values.py makes ids, numbers and times of columns, pictures.py decodes what is a
picture, stored.py reads a client's own store.
"""
