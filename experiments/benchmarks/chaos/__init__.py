"""`inarch bench chaos`: inject faults into real runs, and check that nothing was lost."""
