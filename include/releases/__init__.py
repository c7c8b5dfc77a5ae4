"""What was decided: releases, their runs, and pruning."""
