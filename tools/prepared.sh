# has_set DATA SET STAGE: whether prepared data hold utterances of a set, such as test. Where they do not, it
# says that the stage is left out. Source this file in bash. Data without a summary are left to the stage.
has_set() {
  python - "$@" <<'PYTHON'
import json, os, sys
data, name, stage = sys.argv[1:]
try:
    with open(os.path.join(data, "summary.json"), encoding="utf-8") as file:
        splits = json.load(file)["splits"].values()
    empty = not any(facts["parts"][name]["utterances"] for facts in splits)
except (OSError, ValueError, KeyError, TypeError, AttributeError):
    empty = False
if empty:
    print(f"{data} has no {name} set: stage {stage} is left out")
sys.exit(empty)
PYTHON
}
