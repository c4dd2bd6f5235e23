"""Gin files, installed as package data so that they are found by name: models/, runs/, recipes/, t5x/."""
