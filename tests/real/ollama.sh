#!/bin/sh
# What the tests expect of simulated Ollama nodes, on real ones: prints a table of cases and results.
#
#   OLLAMA_HOSTS="10.0.0.5:11434 10.0.0.6:11434 10.0.0.7:11434" tests/real/ollama.sh
#
# It needs `make setup` once, and Ollama servers that have the model; no Kafka and no platform: the local worker runs
# here, on a log in memory. Its calls are small, and it changes nothing on the servers but what is in their memory.
#
#   OLLAMA_HOSTS            host:port or URLs, with spaces or commas between; the nodes
#   OLLAMA_MODEL            a small model that all of them have (gemma2:2b)
#   OLLAMA_SECOND_MODEL     another one that all have; without it, models in turn are not tried
#   OLLAMA_HUGE_MODEL       one that the first node lists and has no memory for, and another node runs
#   OLLAMA_THINKING_MODEL   one that thinks, on any node
#   OLLAMA_STOP_1, OLLAMA_START_1, ..._2, ...
#                           shell commands that stop and start the first, second, ... node, for example
#                           "ssh pc systemctl stop ollama"; without them no node is stopped
#   OLLAMA_SLOTS            calls at once for each node, as its OLLAMA_NUM_PARALLEL (1)
#   OLLAMA_PATIENCE         seconds for each case; slow machines need more (300)
set -eu
cd "$(dirname "$0")/../.."
if [ -z "${OLLAMA_HOSTS:-}" ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' tests/real/ollama.sh
    exit 2
fi
if [ ! -x .venv/bin/python ]; then
    echo "x There is no .venv here. What to do: make setup" >&2
    exit 2
fi
PYTHONPATH=tests/support exec .venv/bin/python tests/real/ollama_cases.py
