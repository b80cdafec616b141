# Sourced: a fresh virtual environment, deleted at the end, and `pins`, which writes down what is installed in it.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
unset PYTHONDONTWRITEBYTECODE # nothing is compiled by pip, of which most is never imported
venv=$(mktemp -d)/venv
trap 'rm -rf "$(dirname "$venv")"' EXIT
python3 -m venv "$venv"
source "$venv/bin/activate"
pip install --quiet --no-compile --upgrade pip

pins() { # newest or oldest
  local file=constraints/$1.txt comments
  comments=$(grep '^#' "$file")
  { echo "$comments"; pip list --format=freeze --exclude clm-kernels --exclude pip | sed 's/+cpu$//'; } > "$file.new"
  mv "$file.new" "$file"
}
