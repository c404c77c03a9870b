"""Whole federations on one machine: configuration, engines, evaluation, reports and the `mmrank` command."""
