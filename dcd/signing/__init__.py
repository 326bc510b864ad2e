"""Signatures of statements about products: keys, what may be signed, and the process that signs.

    keys.py        the key's file: its checks, without reading it
    statements.py  what may be signed: statements about the artifacts of a build
    process.py     the start of the signer, and its answer
    __main__.py    the signer: the one process that reads a key
    new.py         a new key
    gpg.py         signatures by gpg

Only `__main__` and `new` import more than the standard library and this project, from the extra `dcd[sign]`;
the launcher imports neither.
"""
