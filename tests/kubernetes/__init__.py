"""A real Kubernetes on a bare machine, for tests and demonstrations: built from Go modules, started in seconds.

tools.py builds the programs, control_plane.py runs them, nodes.py and fake_kubelet.py play the machines of the cluster,
kwok.py lets kwok play them, client.py and kubectl.py talk to it, proxy.py stands in between and makes trouble,
shared.py lets all test processes of a run use one. `python -m tests.kubernetes` builds and runs it by hand.
"""
