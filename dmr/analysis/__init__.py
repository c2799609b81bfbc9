"""The reading of results: pandas, scipy, matplotlib and MLflow's client. Never imports `dmr.studies` or Ray."""
