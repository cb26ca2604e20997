#!/usr/bin/env bash
# A range of a Hydra sweep means three things: to the basic sweeper, to Optuna's, and to Optuna's with a grid.
#
# Expected: `key=range(a,b,step)` names the same values whichever sweeper runs it, those of Python's range, as Hydra's
#   documentation of extended overrides has it: the end is not one of them.
# Happens: the basic sweeper does so. The Optuna sweeper makes an IntUniformDistribution(a, b) of it, which includes
#   its end, so that a value is tried that was not asked for: range(1,3) tries 3. With `hydra/sweeper/sampler=grid` it
#   counts (high - low) // step values, and so leaves out the last one where the range is no whole number of steps:
#   range(0,5,2) tries 0 and 2, and never 4. An interval with a tag other than `log`, such as tag(Log,interval(...)),
#   is searched uniformly without a word.
# Versions: hydra-optuna-sweeper 1.3.0 with hydra-core 1.3.8 and optuna 2.10.1.
# Source: create_optuna_distribution_from_override and _to_grid_sampler_choices in hydra_optuna_sweeper/_impl.py.
# What to do: name the values, key=choice(0,2,4). scoresde says so where the end of a range is included, and refuses
#   ranges that the grid would cut short, and tags that nobody reads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet hydra-core==1.3.8 omegaconf==2.3.1 hydra-optuna-sweeper==1.3.0 optuna==2.10.1 \
  sqlalchemy==1.4.54 numpy==2.4.6
cat > app.py <<'PYTHON'
import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path=None)
def main(config: DictConfig) -> float:
    with open(config.file, "a") as file:
        print(config.x, file=file)
    return float(config.x)


main()
PYTHON
# Runs a sweep and writes the values that its jobs had, each once, in a line after a name.
sweep() {
  env/bin/python app.py --multirun "+file=$folder/values" hydra.sweep.dir="$folder/sweep" "${@:2}" > output 2>&1 || { cat output; exit 1; }
  echo "$1: $(sort -n -u values | tr '\n' ' ')"
  mv values "$1"
}
env/bin/pip list 2> /dev/null | grep -i -E "^(hydra|optuna)"
optuna="hydra/sweeper=optuna hydra.sweeper.n_jobs=1 hydra.sweeper.n_trials=30"
random="$optuna hydra/sweeper/sampler=random hydra.sweeper.sampler.seed=0"
{
  sweep "basic, range(1,3)" '+x=range(1,3)'
  sweep "optuna, range(1,3)" $random '+x=range(1,3)'
  sweep "basic, range(0,5,2)" '+x=range(0,5,2)'
  sweep "optuna's grid, range(0,5,2)" $optuna hydra/sweeper/sampler=grid '+x=range(0,5,2)'
} | tee seen
diff seen - <<'TEXT' || { echo "this has changed: see the head of this file"; exit 1; }
basic, range(1,3): 1 2 
optuna, range(1,3): 1 2 3 
basic, range(0,5,2): 0 2 4 
optuna's grid, range(0,5,2): 0 2 
TEXT
# The share of draws below the middle of [1, 100] is a half if they are uniform, and 0.85 if their logarithms are.
for tag in log Log; do
  sweep "$tag" $random "+x=tag($tag,interval(1.0,100.0))" > /dev/null
done
env/bin/python - <<'PYTHON'
below = {tag: sum(float(x) < 50.5 for x in open(tag)) for tag in ("log", "Log")}
print("of 30 draws below the middle:", below)
assert below["log"] >= 22, "tag(log, ...) is no longer searched in logarithms"
assert below["Log"] < 22, "another tag is not ignored any more: see the head of this file"
PYTHON
