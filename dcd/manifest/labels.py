"""The form of labels of hosts. Names of queues join labels by `+`, so none contains one. Pure."""

from dcd.manifest.values import Form

HOST_LABEL = Form(
    r"[A-Za-z0-9_][A-Za-z0-9_./:%~\-]*", "a label of letters, digits and _ . / : % ~ -", "kvm", 255
)
