"""Networks that architecture benchmarks are made of, in plain torch."""
