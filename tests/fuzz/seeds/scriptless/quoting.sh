#!/bin/bash
KUBELET_FLAGS='--a=b' API_SERVER_NAME="x" TLS_BOOTSTRAP_TOKEN=a"b"'c'\d $(date) `date` ${X:-)} $((1+2)) \
<<-EOF >/x
	EOF
if true; then A=1; else B=(1 2); fi; case $x in a) C=3;; esac
