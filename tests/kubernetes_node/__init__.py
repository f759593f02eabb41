"""A real node for the control plane of tests/kubernetes: containers, pods, images, a network, all in one process tree.

namespaces.py makes the machine that the node believes to be, images.py what runs on it, node.py starts containerd,
kubelet and kube-proxy there, door.py lets programs outside in, prometheus.py scrapes. All of it needs root on Linux and
the packages of `make e2e-setup`, and nothing of the host is changed: when the block ends, nothing is left.
"""
