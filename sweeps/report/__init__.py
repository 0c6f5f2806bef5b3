"""The report: one self-contained HTML file that answers which loss to train with."""
