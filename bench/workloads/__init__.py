"""What is measured, one module for each part of the suite; `bench.registry` lists them."""
