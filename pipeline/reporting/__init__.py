"""The report page: figures, gallery and the HTML around them."""
