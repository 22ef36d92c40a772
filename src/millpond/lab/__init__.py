"""The autoscale lab, a library: what a formula would have done, on a load, in virtual time; and what it does now."""
