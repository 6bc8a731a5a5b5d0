#!/usr/bin/env bash
# MuJoCo's Python package gives a model's joint types as an array of integers. Up to 3.11 a number of it equals the
# member of the enum from both sides; from 3.12 on only where the number stands on the left: enum == number is false,
# and `number in (enum, …)`, which asks the other way round, is false for every joint.
#
# It matters to gymnasium-robotics 1.4.2, which asks for no more than mujoco>=2.2 and looks joints up in such tuples:
# with mujoco 4.0.0 its Fetch arms and its kitchen end in an AssertionError without a word, its mazes do not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > run.py <<'PY'
import warnings

warnings.filterwarnings("ignore")
import gymnasium
import gymnasium_robotics
import mujoco

gymnasium.register_envs(gymnasium_robotics)
XML = '<mujoco><worldbody><body><joint type="hinge"/><geom size=".1"/></body></worldbody></mujoco>'
number, hinge = mujoco.MjModel.from_xml_string(XML).jnt_type[0], mujoco.mjtJoint.mjJNT_HINGE
print(f"mujoco {mujoco.__version__}: number == enum {number == hinge}, enum == number {hinge == number}, "
      f"number in (enum,) {number in (hinge,)}")
for name in ("FetchReach-v4", "FrankaKitchen-v1", "PointMaze_UMaze-v3"):
    try:
        gymnasium.make(name).reset(seed=0)
        print(f"  {name}: made")
    except AssertionError as error:
        print(f"  {name}: AssertionError {error}")
PY
for version in 3.11.0 4.0.0; do
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" install --quiet gymnasium-robotics==1.4.2 gymnasium==1.4.0 "mujoco==$version"
  "venv-$version/bin/python" run.py 2>/dev/null | tee "$version.txt"
done
grep -q "number == enum True, enum == number True, number in (enum,) True" 3.11.0.txt
[ "$(grep -c ': made' 3.11.0.txt)" = 3 ]
grep -q "number == enum True, enum == number False, number in (enum,) False" 4.0.0.txt
[ "$(grep -c 'AssertionError' 4.0.0.txt)" = 2 ]
grep -q "PointMaze_UMaze-v3: made" 4.0.0.txt
echo "confirmed"
