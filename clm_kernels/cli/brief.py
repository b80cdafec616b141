"""What ``train --help`` says, so that it fits a screen of 80 columns; ``--help-all`` has every option, in full."""

COMMON = {
    "model": "Directory of the model to start from.",
    "train": ".jsonl, .csv, .conll …; a folder; -; hf://.",
    "validation": "Validation data; else a part of train.",
    "test": "Test data, scored once, at the end.",
    "text_column": "Column of the text.",
    "label_column": "Column of the label.",
    "skip_bad_rows": "Leave out rows that cannot be read.",
    "max_length": "Tokens of a text, at most.",
    "density": "Part of the weights that is trained.",
    "method": "sparse, full, head, lora.",
    "epochs": "Passes over the training data.",
    "batch_size": "Examples in a batch.",
    "learning_rate": "Peak learning rate. (default: by the method)",
    "cost": "Part of full fine-tuning's FLOPs to take.",
    "minutes": "Minutes that the run may take.",
    "balance": "For rare labels: weights or sample.",
    "output": "Folder for the result; must be new or empty.",
    "seed": "Seed of all that is random.",
    "seeds": "Seeds to train with; the best is kept.",
    "search": "Trials that look for options by validation.",
    "resume": "Go on from the last checkpoint.",
    "overwrite": "Replace the run that stands in the output.",
}
PANELS = {"Selection": "Training", "Run": "Training"}  # of options that stand with others there
