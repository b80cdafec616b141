"""What a GPU should reach, in three calls of some minutes each: `calls` runs their parts, `reach` is the table of targets."""
