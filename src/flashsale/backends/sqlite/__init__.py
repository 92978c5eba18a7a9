"""The ledger in one SQLite file, owned by one process.

`ledger` is the port. `file` opens, locks and migrates the file. `group` gathers what arrives while a
commit is in flight. `rows` loads the books of a transaction and stores what was decided on them.
`find` answers questions.
"""
