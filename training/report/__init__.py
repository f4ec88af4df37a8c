"""Pages of pictures for people.

page.py is how a page looks, charts.py and pictures.py draw; nothing in these three knows what a model is. model.py is
the page of an exported model, material.py what it is drawn from; the other files are one section each.
"""
