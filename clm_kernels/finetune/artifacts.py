"""Names of what stands in the folder of a run."""

RUN, REPORT, CHECKPOINTS = "run.json", "report.json", "checkpoints"
RUN_FILE = "run.yaml"
INNER = ("seed-*", "trial-*")  # folders of several runs, each with all of this
TRIALS = "trials.csv"
TASKS = "tasks.json"  # of several tasks, each in a folder of its own name
DELTA, SELECTION, GROUPS = "delta.safetensors", "selection.safetensors", "token_groups.json"
ACTIVE, COST_PICTURE = "active_tokens.json", "cost.png"
PAGE = "report.html"
SCOPE = "scope.safetensors"
SCORES, PICTURE = "sensitivity.safetensors", "selection.png"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # as PEFT names them
CARD = "README.md"
TRAINED = "trained.safetensors"  # in a checkpoint of a divided base
WHOLE = "model.safetensors"  # as transformers names it, where it is one file
SHARDS, INDEX = "model-*-of-*.safetensors", "model.safetensors.index.json"  # where it is several
EVALUATIONS = "evaluation-*"  # folders, of what is told of the run later
OF_EVALUATION = (
    "evaluation.json", "classes.csv", "confusion.csv", "errors.csv", "mislabels.csv", "confusion.png", "reliability.png", PAGE,
)  # fmt: skip
