"""Which methods and tasks there are: name -> ``"module:Class"`` in the folder beside. Nothing is imported for the names."""

METHODS = {"sparse": "sparse:Sparse", "full": "full:Full", "head": "head:Head", "lora": "lora:LowRank"}
TASKS = {"sequence": "sequence:SequenceClassification", "token": "token:TokenClassification",
         "multilabel": "multilabel:MultiLabelClassification"}  # fmt: skip
