package org.mnv3.demo.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.max
import kotlin.math.min

/** Upright pixels, row after row, each 0xAARRGGBB with colours not multiplied by alpha: what Bitmap.getPixels gives. */
class Pixels(val argb: IntArray, val width: Int, val height: Int)

/** Makes the input tensor from a picture, by the bundle's contract and bit by bit as mnv3 does. */
class Preprocessor(private val contract: BundleContract) {

    /** The input tensor, ready for the interpreter. */
    fun tensor(picture: Pixels): ByteBuffer {
        val rgb = prepare(picture)
        val buffer = ByteBuffer.allocateDirect(contract.input.bytes).order(ByteOrder.nativeOrder())
        when (contract.input.dtype) {
            "uint8" -> buffer.put(rgb)
            "int8" -> for (value in rgb) buffer.put(((value.toInt() and 0xFF) - 128).toByte())
            "float32" -> for (value in rgb) buffer.putFloat((value.toInt() and 0xFF).toFloat())
            else -> throw IllegalArgumentException("inputs of type ${contract.input.dtype} are not known")
        }
        buffer.rewind()
        return buffer
    }

    /** Red, green, blue of each pixel of the input, one byte each. */
    fun prepare(picture: Pixels): ByteArray {
        val rule = contract.preprocessing
        val source = Image.of(picture, rule.background)
        return when (rule.resize) {
            "stretch" -> resample(source, rule.width, rule.height, 0f, 0f, source.width.toFloat(), source.height.toFloat()).bytes
            "crop" -> crop(source, rule).bytes
            "pad" -> pad(source, rule).bytes
            else -> throw IllegalArgumentException("the resize rule ${rule.resize} is not known")
        }
    }

    private fun crop(source: Image, rule: Preprocessing): Image {
        val boxWidth = rule.cropFraction * min(source.width.toDouble(), source.height.toDouble() * rule.width / rule.height)
        val boxHeight = rule.cropFraction * min(source.height.toDouble(), source.width.toDouble() * rule.height / rule.width)
        val left = (source.width - boxWidth) / 2
        val top = (source.height - boxHeight) / 2
        return resample(
            source, rule.width, rule.height,
            left.toFloat(), top.toFloat(), (source.width - left).toFloat(), (source.height - top).toFloat(),
        )
    }

    private fun pad(source: Image, rule: Preprocessing): Image {
        var columns = rule.width
        var rows = rule.height
        val wide = source.width.toLong() * rule.height >= source.height.toLong() * rule.width
        if (wide) {
            rows = max(1L, (2L * source.height * rule.width + source.width) / (2L * source.width)).toInt()
        } else {
            columns = max(1L, (2L * source.width * rule.height + source.height) / (2L * source.height)).toInt()
        }
        val inner = resample(source, columns, rows, 0f, 0f, source.width.toFloat(), source.height.toFloat())
        val canvas = Image(rule.width, rule.height, ByteArray(rule.width * rule.height * 3))
        for (i in canvas.bytes.indices) canvas.bytes[i] = rule.background[i % 3].toByte()
        val left = (rule.width - columns) / 2
        val top = (rule.height - rows) / 2
        for (y in 0 until rows) {
            inner.bytes.copyInto(canvas.bytes, ((top + y) * rule.width + left) * 3, y * columns * 3, (y + 1) * columns * 3)
        }
        return canvas
    }

    private fun resample(source: Image, width: Int, height: Int, left: Float, top: Float, right: Float, bottom: Float): Image =
        when (val name = contract.preprocessing.interpolation) {
            "mediapipe" -> Resampler.plainBilinear(source, width, height)
            "nearest" -> Resampler.nearest(source, width, height, left, top, right, bottom)
            else -> Resampler.filtered(source, width, height, left, top, right, bottom, Filter.named(name))
        }
}

/** Red, green, blue of each pixel, row after row. */
class Image(val width: Int, val height: Int, val bytes: ByteArray) {
    companion object {
        /** Puts transparent pixels on the background; opaque ones are taken as they are. */
        fun of(picture: Pixels, background: IntArray): Image {
            val bytes = ByteArray(picture.width * picture.height * 3)
            for (i in 0 until picture.width * picture.height) {
                val pixel = picture.argb[i]
                val alpha = pixel ushr 24
                for (channel in 0 until 3) {
                    val value = (pixel ushr (16 - 8 * channel)) and 0xFF
                    bytes[3 * i + channel] =
                        if (alpha == 255) value.toByte() else ((value * alpha + background[channel] * (255 - alpha) + 127) / 255).toByte()
                }
            }
            return Image(picture.width, picture.height, bytes)
        }
    }
}
