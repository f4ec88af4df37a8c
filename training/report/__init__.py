"""Pages of pictures for people: report.html beside each exported model.

page.py knows how a page looks, charts.py and pictures.py draw, model.py says what is on the page of a model.
"""
