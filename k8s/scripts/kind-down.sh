#!/usr/bin/env bash
# Removes the laptop cluster with everything in it.
set -euo pipefail
kind delete cluster --name headrace
