"""Where a log lies: files of this machine, the web and object stores, and tables of databases."""
