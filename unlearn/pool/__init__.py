"""Level tables: train models that each leave out a part of the subjects, score every record, and destroy the models.

    design ---> train a model ---> score all records and controls ---> delete it      M times, each resumable
       |                                     |
       +-------- committed before            +---> rows, Merkle root, signed header   `verify.provenance.level_table`

Every later deletion is judged by the table instead of retrained references, which costs one forward pass.
"""
