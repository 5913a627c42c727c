"""The shop's side: orders, tables, demo data, and the contract for another order system."""
