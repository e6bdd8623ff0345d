"""Would the tests notice? Small faults are put into the rules and kernels, one at a time, and tests have to fail."""
