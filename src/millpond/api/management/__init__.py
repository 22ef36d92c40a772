"""The management plane: the account itself, and what it has beside pools and jobs (Azure Resource Manager's paths and ways).

It acts on the same control plane as the data plane does. An operation is a row in `operations` and a function of its
name in `handlers`; who may call is for `auth` alone to say.
"""
